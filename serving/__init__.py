"""Export, embedded model server, clients and configuration of TF Serving.

The sub-packages are independent: `serving.client` needs grpcio, protobuf and
numpy only, `serving.server` and `serving.export` need TensorFlow. Nothing is
imported here, so that importing one never drags in another.
"""
