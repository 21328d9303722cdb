//! Session-key wrap, sealing, response digest and signature, chunk macs, keystores
