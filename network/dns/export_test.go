package dns

import "context"

// Answer gives the answer to a query, nil if there is none.
func (s *Server) Answer(ctx context.Context, query []byte) []byte { return s.answer(ctx, query, "udp") }
