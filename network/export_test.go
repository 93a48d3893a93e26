package network

// Abandon leaves an attachment as the death of its process would: files are closed, nothing is removed.
func Abandon(a *Attachment) {
	closeBindings(a.bindings)
	_ = a.keeper.file.Close()
	*a = Attachment{networks: a.networks}
}
