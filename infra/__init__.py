"""What catdog can be run on."""
