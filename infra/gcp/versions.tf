# The state is kept in this folder; README.md tells how several people keep it in a bucket.
terraform {
  required_version = ">= 1.6"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
  }
}

provider "google" {
  project = var.project
  region  = local.region
  zone    = var.zone
}
