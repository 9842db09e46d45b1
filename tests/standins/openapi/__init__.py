"""What GitHub and GitLab publish of their APIs, cut down to what is used here; README.md says where it is from."""
