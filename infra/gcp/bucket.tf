# Data sets and runs: gs://BUCKET/data/..., gs://BUCKET/runs/..., and gs://BUCKET/tmp/... for what need not stay.
resource "google_storage_bucket" "catdog" {
  # checkov:skip=CKV_GCP_62:Who reads a bucket is told by Cloud Audit Logs where they are on; usage logs would need a second bucket.
  # checkov:skip=CKV_GCP_78:A run replaces and deletes its checkpoints all the time; versions would keep, and bill, every one.
  name                        = var.bucket
  location                    = local.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.protected

  # Checkpoints replace each other, and a run takes care by itself that the newest is whole.
  versioning {
    enabled = false
  }

  # Else every checkpoint that was replaced is billed for seven days more.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  # What a broken save leaves, a state without its COMMITTED.json, is named like any other state: no rule could tell it
  # from a good one. catdog sweeps it away itself when the run goes on. So a rule deletes only where nothing is to stay.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = 7
      matches_prefix = ["tmp/"]
    }
  }

  # Parts that other tools' broken uploads leave; those of catdog are resumable, which Google forgets after a week.
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_storage_bucket_iam_member" "people" {
  for_each = toset(var.people)
  bucket   = google_storage_bucket.catdog.name
  role     = "roles/storage.objectUser"
  member   = each.key
}
