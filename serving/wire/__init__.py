"""Code that clients and servers share: tensors, messages and their bytes.

Needs protobuf and NumPy.
"""
