"""The Pulumi provider `wms` of the local target: files, processes and stores of this machine."""
