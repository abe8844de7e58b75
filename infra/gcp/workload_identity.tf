data "google_project" "this" {
  project_id = var.project
}

# Training is the Kubernetes service account `catdog` in the namespace `catdog`, which needs nothing but the bucket.
resource "google_storage_bucket_iam_member" "training" {
  count  = local.on_gke ? 1 : 0
  bucket = google_storage_bucket.catdog.name
  role   = "roles/storage.objectUser"
  member = join("/", [
    "principal://iam.googleapis.com/projects/${data.google_project.this.number}/locations/global",
    "workloadIdentityPools/${var.project}.svc.id.goog/subject/ns/catdog/sa/catdog",
  ])
  # The pool of identities comes with the project's first cluster.
  depends_on = [google_container_cluster.catdog]
}
