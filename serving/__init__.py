"""Export, model server, ranking service, stores and clients.

`serving.wire` is shared by all. `serving.client` and `serving.stores` need no
TensorFlow; `serving.export` and `serving.model_server` do, and read the wire
format only. `serving.ranking_service` stands on the clients and the stores.
docs/architecture.md states the direction of imports. Nothing is imported here,
so that importing one room does not import another.
"""
