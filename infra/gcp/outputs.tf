output "image" {
  description = "The image's name without its tag; variable IMAGE of the repository on GitHub."
  value       = "${local.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.catdog.repository_id}/catdog"
}

output "kubectl_credentials" {
  description = "The command that lets kubectl find the cluster."
  value       = one([for cluster in google_container_cluster.catdog : "gcloud container clusters get-credentials ${cluster.name} --project ${var.project} --location ${var.zone} --dns-endpoint"])
}

output "build_service_account" {
  description = "Who builds images; variable GCP_SERVICE_ACCOUNT of the repository on GitHub."
  value       = google_service_account.build.email
}

output "workload_identity_provider" {
  description = "Variable GCP_WORKLOAD_IDENTITY_PROVIDER of the repository on GitHub."
  value       = one(google_iam_workload_identity_pool_provider.github[*].name)
}
