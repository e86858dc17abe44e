package container

// Relayed returns a configuration with which no output is read straight from its pipe.
func Relayed(cfg Config) Config {
	cfg.relayed = true
	return cfg
}
