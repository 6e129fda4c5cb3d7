"""What clients and servers share: tensors, messages, and their bytes.

Needs protobuf and NumPy. The messages are made from field numbers
(`descriptors`), without generated code.
"""
