"""What an audit event is and what every port promises: pure values, formats and protocols, without I/O."""
