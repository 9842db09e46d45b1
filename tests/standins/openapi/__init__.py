"""The published API descriptions of GitHub and GitLab, reduced to the operations used here. README.md names the sources."""
