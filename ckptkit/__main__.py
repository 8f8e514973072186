"""`python -m ckptkit`; the scripts start in `ckptkit_tf`, which see."""

from __future__ import annotations

from ckptkit_tf import main

if __name__ == "__main__":
    main()
