"""Parts of the app; ``bundles`` needs no MONAI Label."""
