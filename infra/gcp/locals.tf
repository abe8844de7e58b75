locals {
  region            = regex("^(.+)-[a-z]$", var.zone)[0]
  on_gke            = var.ray_on == "gke"
  on_compute_engine = var.ray_on == "compute_engine"
}
