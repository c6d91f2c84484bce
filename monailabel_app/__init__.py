"""MONAI Label app: the bundles in a viewer, see README.md."""
