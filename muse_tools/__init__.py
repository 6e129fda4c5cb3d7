"""Around the pipeline: data sets, command line, comparisons, pictures.

`datasets` is below the pipeline, which reads raw tables through it; everything
else here is above. docs/architecture.md has the order, and a test holds it.
"""

# The packages are on no index.
INSTALL_ALL = (
    "pip install 'PATH[all]', where PATH is the checkout or the wheel "
    "muse_tensorflow-*.whl that `make wheels` builds"
)
