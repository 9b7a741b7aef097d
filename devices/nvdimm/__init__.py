"""The virtual NVDIMM: QEMU's options, placement, NFIT, SSDT and _DSM on any mapping, and the labels inside."""
