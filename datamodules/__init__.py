"""What flows in: one data module a source, all under the contract of `datamodules.base.DataModule`."""
