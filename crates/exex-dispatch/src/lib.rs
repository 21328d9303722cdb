//! Worker directory, worker choice, session authorization, keeper duties
