package lab

// Touching lists the processes that touch a run directory.
func Touching(dir string) []int { return processes(dir) }
