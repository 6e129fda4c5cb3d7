"""Raw Taobao-MM tables: schemas, readers, validation and data sources.

Importing this package imports nothing else; import the module you need.
"""
