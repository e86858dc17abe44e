package main

const mqOpen, processVMReadv = 180, 270
