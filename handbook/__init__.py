"""What makes the site: reference pages from the code itself, and tutorials that are run (`make docs`)."""
