"""The model author's kit: layers that take their kernels from the Ops table they are given.

Plain objects, not `nn.Module`: a decode step calls some hundreds of them, so a call costs one Python call and no more.
Every layer lists the checkpoint tensors it wants as slots (`layer.slots(prefix)`), and `load` fills them.
Importing this package imports no torch; its modules do.
"""
