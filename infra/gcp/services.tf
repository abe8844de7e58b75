# The APIs that all of this needs.
resource "google_project_service" "this" {
  for_each = toset([
    "artifactregistry",
    "cloudbuild",
    "cloudresourcemanager",
    "compute",
    "container",
    "containerfilesystem",
    "iam",
    "iamcredentials",
    "iap",
    "storage",
    "sts",
  ])
  service = "${each.key}.googleapis.com"
  # Others in the project may use it too.
  disable_on_destroy = false
}
