package main

const mqOpen, processVMReadv = 240, 310
