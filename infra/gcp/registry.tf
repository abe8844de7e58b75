# REGION-docker.pkg.dev/PROJECT/catdog/catdog:TAG, and :TAG-gpu.
resource "google_artifact_registry_repository" "catdog" {
  # checkov:skip=CKV_GCP_84:Google's own keys encrypt the images, which hold no secret.
  repository_id = "catdog"
  location      = local.region
  format        = "DOCKER"
  description   = "Images of catdog"

  # A tag that cannot be moved cannot be deleted either, so old images would be billed for ever. Where it must be sure what
  # runs, name an image by its digest.
  docker_config {
    immutable_tags = false
  }

  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "2592000s" # 30 days
    }
  }

  # What is kept wins over what is deleted.
  cleanup_policies {
    id     = "keep-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }

  depends_on = [google_project_service.this]
}
