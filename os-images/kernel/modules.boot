# Loaded first, in this order; whatever else the devices want follows.
virtio_rng
virtio_blk
virtio_net
overlay
