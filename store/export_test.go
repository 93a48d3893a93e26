package store

// Forget leaves a stage as the death of its process would: open files are closed, nothing is removed.
func (ls *LayerStage) Forget() {
	_ = ls.Tar.Close()
	_ = ls.Index.Close()
	_ = ls.stage.dir.Close()
}
