# A cluster in one zone: its management is free of charge once per billing account, and workers exchange gradients, which
# between zones is slower and billed.
resource "google_container_cluster" "catdog" {
  # checkov:skip=CKV_GCP_12:Dataplane V2 enforces network policies; the block that is looked for is that of its predecessor.
  # checkov:skip=CKV_GCP_20:The control plane has no IP address that networks could be authorized for.
  # checkov:skip=CKV_GCP_61:Flow logs are off for what they cost, so traffic inside a node need not be made visible to them.
  # checkov:skip=CKV_GCP_65:Groups of Google Workspace need an organization; without one IAM says who may use the cluster.
  # checkov:skip=CKV_GCP_66:Only one account can push the images; who wants them signed as well has to say by whom.
  count               = local.on_gke ? 1 : 0
  name                = "catdog"
  location            = var.zone
  network             = google_compute_network.catdog.id
  subnetwork          = google_compute_subnetwork.catdog.id
  deletion_protection = var.protected
  # The bill can be told apart by it.
  resource_labels = { app = "catdog" }

  # The pools are resources of their own; the one that a cluster is born with goes at once.
  remove_default_node_pool = true
  initial_node_count       = 1
  node_config {
    service_account = google_service_account.nodes[0].email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }
    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  release_channel {
    channel = "REGULAR"
  }

  # Enforces network policies.
  datapath_provider = "ADVANCED_DATAPATH"
  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  private_cluster_config {
    enable_private_nodes = true
  }

  # The control plane has a name, which asks for Google's credentials and IAM's leave, and no address to guard.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }
    ip_endpoints_config {
      enabled = false
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  workload_identity_config {
    workload_pool = "${var.project}.svc.id.goog"
  }

  lifecycle {
    # That of the pool which has gone.
    ignore_changes = [node_config]
  }
}
