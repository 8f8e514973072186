"""Writers of weight stores: streaming, deterministic, each through `ckptkit._io.atomic`."""
