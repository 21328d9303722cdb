//! What an extension sees of a chain: the Host traits, notifications, the journal, the supervisor
