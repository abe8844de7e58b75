# What the nodes are, and the account that they act as, which has no key.
resource "google_service_account" "nodes" {
  count        = local.on_gke ? 1 : 0
  account_id   = "catdog-nodes"
  display_name = "Nodes of catdog's cluster"
  depends_on   = [google_project_service.this]
}

resource "google_project_iam_member" "nodes" {
  count   = local.on_gke ? 1 : 0
  project = var.project
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes[0].member
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  count      = local.on_gke ? 1 : 0
  location   = google_artifact_registry_repository.catdog.location
  repository = google_artifact_registry_repository.catdog.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes[0].member
}

# KubeRay's operator and Ray's head, for which infra/kuberay/overlays/gpu asks: this size has room for both.
resource "google_container_node_pool" "system" {
  count              = local.on_gke ? 1 : 0
  name               = "system"
  cluster            = google_container_cluster.catdog[0].id
  initial_node_count = 1

  autoscaling {
    min_node_count = 1
    max_node_count = 3
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  node_config {
    machine_type    = "e2-standard-4"
    image_type      = "COS_CONTAINERD"
    disk_type       = "pd-balanced"
    disk_size_gb    = 50
    service_account = google_service_account.nodes[0].email
    # What nodes may do is decided by the roles of their account.
    oauth_scopes = ["https://www.googleapis.com/auth/cloud-platform"]

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }
}

# Machine and GPU are those that infra/kuberay/overlays/gpu selects and sizes its workers for. GKE itself taints these nodes
# with nvidia.com/gpu, and labels them with cloud.google.com/gke-accelerator and cloud.google.com/gke-spot.
resource "google_container_node_pool" "gpu" {
  count              = local.on_gke ? 1 : 0
  name               = "gpu"
  cluster            = google_container_cluster.catdog[0].id
  initial_node_count = 0
  # GKE taints a pool with GPUs only where there is one without.
  depends_on = [google_container_node_pool.system]

  autoscaling {
    min_node_count = 0
    max_node_count = var.gpu_nodes
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  # An upgrade takes no GPU beyond the quota.
  upgrade_settings {
    max_surge       = 0
    max_unavailable = 1
  }

  node_config {
    machine_type    = "g2-standard-8"
    spot            = true
    image_type      = "COS_CONTAINERD"
    disk_type       = "pd-balanced"
    disk_size_gb    = 100
    service_account = google_service_account.nodes[0].email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    guest_accelerator {
      type  = "nvidia-l4"
      count = 1
      gpu_driver_installation_config {
        gpu_driver_version = "LATEST"
      }
    }

    # The image is several GB with CUDA's libraries; pods start while it is still on its way.
    gcfs_config {
      enabled = true
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }
}
