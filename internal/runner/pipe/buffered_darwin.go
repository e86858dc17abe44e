package pipe

// fionread is FIONREAD, which package unix lacks here.
const fionread = 0x4004667f
