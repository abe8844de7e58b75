# A network of its own, whose machines have no addresses on the internet.
resource "google_compute_network" "catdog" {
  name                    = "catdog"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.this]
}

resource "google_compute_subnetwork" "catdog" {
  # checkov:skip=CKV_GCP_26:Flow logs of the gradients that workers exchange would cost more than they tell.
  name          = "catdog"
  network       = google_compute_network.catdog.id
  region        = local.region
  ip_cidr_range = "10.0.0.0/20"
  # Bucket and registry are reached without the NAT, which bills each byte.
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = "10.4.0.0/16"
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = "10.8.0.0/20"
  }
}

# The way out, for images from other registries and weights from elsewhere; nothing comes in by it.
resource "google_compute_router" "catdog" {
  name    = "catdog"
  network = google_compute_network.catdog.id
  region  = local.region
}

resource "google_compute_router_nat" "catdog" {
  name                               = "catdog"
  router                             = google_compute_router.catdog.name
  region                             = local.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}
