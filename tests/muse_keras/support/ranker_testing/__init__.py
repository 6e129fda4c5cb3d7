"""What the tests of `muse_keras` share."""
