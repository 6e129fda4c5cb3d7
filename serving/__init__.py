"""Export, model server, ranking service, stores and clients.

`serving.wire` is shared by servers and clients. `serving.client` and
`serving.stores` need no TensorFlow; `serving.export` and
`serving.model_server` do. `serving.model_server` also builds its REST sample
with `serving.client`, and `serving.ranking_service` uses clients and stores.
docs/architecture.md states the direction of imports. Nothing is imported here,
so that importing one part does not import another.
"""
