"""Long drills on real servers, not part of `make test`: `make drills`. Each module with a `main` is a drill."""
