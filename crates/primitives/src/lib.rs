//! Ids, contract bindings, EIP-712 types, wire frames, prompt envelopes and history of the LightChain AI chain: no I/O
