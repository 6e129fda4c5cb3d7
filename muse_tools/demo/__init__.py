"""The steps of `muse demo`: data, two models, a store, a ranked request."""
