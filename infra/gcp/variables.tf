variable "project" {
  description = "Id of the Google Cloud project that all of this is made in; billing must be on."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project's id has 6 to 30 small letters, digits and hyphens."
  }
}

variable "bucket" {
  description = "Name of the bucket for data and runs; no other bucket in the world may have it."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket's name has 3 to 63 small letters, digits, hyphens and underscores."
  }
}

variable "zone" {
  description = "Zone of the machines, which must offer the GPUs; its region is that of bucket and images."
  type        = string
  default     = "europe-west4-a"
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", var.zone))
    error_message = "A zone looks like europe-west4-a."
  }
}

variable "ray_on" {
  description = "What Ray runs on: gke (with KubeRay), or compute_engine (machines that `ray up` starts, see infra/ray-gcp.yaml)."
  type        = string
  default     = "gke"
  validation {
    condition     = contains(["gke", "compute_engine"], var.ray_on)
    error_message = "Ray runs on gke or on compute_engine."
  }
}

variable "people" {
  description = "Who prepares data and pulls models, as in [\"user:ada@example.com\", \"group:vision@example.com\"]."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.people : can(regex("^(user|group):.+@.+$", member))])
    error_message = "Each is user:ADDRESS or group:ADDRESS."
  }
}

variable "protected" {
  description = "Whether cluster, data and runs are kept from being deleted; false is applied before `terraform destroy`."
  type        = bool
  default     = true
}

variable "gpu_nodes" {
  description = "The most nodes with GPUs at a time, which bounds what they cost; there are none while nothing asks for them."
  type        = number
  default     = 4
  validation {
    condition     = var.gpu_nodes >= 1 && var.gpu_nodes <= 32 && floor(var.gpu_nodes) == var.gpu_nodes
    error_message = "It is a whole number from 1 to 32."
  }
}

variable "github_repository" {
  description = "The repository on GitHub, as OWNER/NAME, whose workflows for tags may push images; null for none."
  type        = string
  default     = null
  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "A repository looks like OWNER/NAME."
  }
}
