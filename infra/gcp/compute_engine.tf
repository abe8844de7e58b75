# What infra/ray-gcp.yaml names: accounts for Ray's head and workers, and the ways to reach them.
resource "google_service_account" "ray" {
  for_each     = toset(local.on_compute_engine ? ["head", "worker"] : [])
  account_id   = "catdog-${each.key}"
  display_name = "Ray's ${each.key} for catdog"
  depends_on   = [google_project_service.this]
}

resource "google_storage_bucket_iam_member" "ray" {
  for_each = google_service_account.ray
  bucket   = google_storage_bucket.catdog.name
  role     = "roles/storage.objectUser"
  member   = each.value.member
}

resource "google_artifact_registry_repository_iam_member" "ray" {
  for_each   = google_service_account.ray
  location   = google_artifact_registry_repository.catdog.location
  repository = google_artifact_registry_repository.catdog.name
  role       = "roles/artifactregistry.reader"
  member     = each.value.member
}

# The head starts and ends workers. This role holds for every machine of the project: let it be a project of its own.
resource "google_project_iam_member" "ray_head" {
  count   = local.on_compute_engine ? 1 : 0
  project = var.project
  role    = "roles/compute.instanceAdmin.v1"
  member  = google_service_account.ray["head"].member
}

resource "google_service_account_iam_member" "ray_head_starts_workers" {
  count              = local.on_compute_engine ? 1 : 0
  service_account_id = google_service_account.ray["worker"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.ray["head"].member
}

# Ray's nodes talk on many ports, with each other only.
resource "google_compute_firewall" "ray_inside" {
  count       = local.on_compute_engine ? 1 : 0
  name        = "catdog-ray-inside"
  network     = google_compute_network.catdog.id
  source_tags = ["catdog-ray"]
  target_tags = ["catdog-ray"]
  allow {
    protocol = "tcp"
  }
}

# SSH, and the dashboard through it, comes by Identity-Aware Proxy, which asks for Google's credentials; this range is its own.
resource "google_compute_firewall" "ray_ssh" {
  count         = local.on_compute_engine ? 1 : 0
  name          = "catdog-ray-ssh"
  network       = google_compute_network.catdog.id
  source_ranges = ["35.235.240.0/20"]
  target_tags   = ["catdog-ray"]
  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}
