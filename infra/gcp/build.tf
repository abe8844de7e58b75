# The account that builds and pushes images, for Cloud Build and for the workflows on GitHub.
resource "google_service_account" "build" {
  account_id   = "catdog-build"
  display_name = "Builds catdog's images"
  depends_on   = [google_project_service.this]
}

resource "google_artifact_registry_repository_iam_member" "build" {
  location   = google_artifact_registry_repository.catdog.location
  repository = google_artifact_registry_repository.catdog.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build.member
}

resource "google_project_iam_member" "build_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.build.member
}

# `gcloud builds submit` leaves the source there, and nothing else of the bucket is the builder's business.
resource "google_storage_bucket_iam_member" "build_source" {
  bucket = google_storage_bucket.catdog.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.build.member
  condition {
    title      = "source only"
    expression = "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.catdog.name}/objects/tmp/source/\")"
  }
}
