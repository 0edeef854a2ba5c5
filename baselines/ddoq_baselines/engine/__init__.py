"""What the methods share that learn their images: networks, losses, the unrolled gradient."""
