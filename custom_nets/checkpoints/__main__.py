"""``python -m custom_nets.checkpoints METHOD IN OUT``: an authors' weight file as a bundle checkpoint."""

from custom_nets.checkpoints.published import main

if __name__ == "__main__":
    main()
