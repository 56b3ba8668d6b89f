package ide

// MethodSessionRequest asks for a request that was seen: RequestParams, RequestResult.
const MethodSessionRequest = "session/request"

// MethodSessionServing asks which request a stopped thread serves: ServingParams,
// ServingResult. Who listens to the session's traffic is told, too.
const MethodSessionServing = "session/serving"

// Kinds of a SessionEvent that only who asks for Traffic is told.
const (
	EventRequest    = "request"    // Request: one has come on a stolen or mirrored connection
	EventResponse   = "response"   // Request, of the same ID: it was answered, or never will be
	EventConnection = "connection" // Connection: a stolen or mirrored one that is not HTTP
	EventOutgoing   = "outgoing"   // Outgoing: a connection to what the target reaches
	EventFile       = "file"       // File: of the target
	EventServing    = "serving"    // Serving: the request at a breakpoint
)

type (
	// Request tells of one HTTP request: Asked with EventRequest, Answered with
	// EventResponse.
	Request struct {
		ID uint64 `json:"id"` // unique in the session, also among Connections and Outgoings
		*Asked
		*Answered
	}
	Asked struct {
		Port   uint16 `json:"port"`
		Mirror bool   `json:"mirror"`
		Peer   string `json:"peer"` // "10.1.2.3:4711"
		Method string `json:"method"`
		Path   string `json:"path"` // with its query
		Host   string `json:"host"`
		Proto  string `json:"proto"` // HTTP/1.0, HTTP/1.1, HTTP/2
		GRPC   bool   `json:"grpc,omitempty"`
	}
	Answered struct {
		Status        int     `json:"status"` // 0: the connection ended before, as Error says
		MS            float64 `json:"ms"`     // since its head has come
		RequestBytes  int64   `json:"requestBytes"`
		ResponseBytes int64   `json:"responseBytes"`
		GRPCStatus    *int    `json:"grpcStatus,omitempty"`
		Error         string  `json:"error,omitempty"`
	}

	// Connection is told when it is known not to be HTTP, and when it has ended.
	Connection struct {
		ID       uint64  `json:"id"`
		Port     uint16  `json:"port"`
		Mirror   bool    `json:"mirror"`
		Peer     string  `json:"peer"`
		BytesIn  int64   `json:"bytesIn"` // to the debuggee
		BytesOut int64   `json:"bytesOut"`
		MS       float64 `json:"ms"` // since it was opened
		Open     bool    `json:"open"`
	}

	// Outgoing is told when the target has answered, and when it has ended.
	Outgoing struct {
		ID       uint64  `json:"id"`
		Proto    string  `json:"proto"`   // tcp, udp
		Address  string  `json:"address"` // "10.96.0.12:80"
		Name     string  `json:"name"`    // that was looked up for the address in the session, or ""
		PID      int     `json:"pid"`
		MS       float64 `json:"ms"`              // until the answer; Ended: since it was asked for
		Error    string  `json:"error,omitempty"` // ECONNREFUSED
		Ended    bool    `json:"ended"`
		BytesIn  int64   `json:"bytesIn"` // to the debuggee
		BytesOut int64   `json:"bytesOut"`
	}

	// File is one of the target's that was opened, or was to be.
	File struct {
		Path  string `json:"path"`
		Op    string `json:"op"` // open, list
		Write bool   `json:"write"`
		Bytes int64  `json:"bytes,omitempty"` // its size
		PID   int    `json:"pid"`
		Count int    `json:"count,omitempty"` // so often since the event before; left out: once
		Error string `json:"error,omitempty"` // ENOENT
	}

	// ServingParams say what is seen of a connection by who serves it.
	ServingParams struct {
		ID     string `json:"id"`               // of the session
		Thread int64  `json:"thread"`           // that has stopped; of Go: the goroutine
		Peer   string `json:"peer"`             // the client's address, "10.1.2.3:4711"
		Stream uint32 `json:"stream,omitempty"` // of HTTP/2
	}
	// Serving is a request that was not answered yet.
	Serving struct {
		Thread int64  `json:"thread"`
		ID     uint64 `json:"id"` // of the request
		Method string `json:"method"`
		Path   string `json:"path"` // with its query
		Peer   string `json:"peer"`
		Pod    string `json:"pod,omitempty"` // the client, "NAMESPACE/NAME"; "": it is not known
	}
	ServingResult struct {
		Serving
		Headers [][2]string `json:"headers"` // what is secret in them is masked
	}

	// RequestParams: without Reveal, what is secret in headers is masked.
	RequestParams struct {
		ID      string `json:"id"` // of the session
		Request uint64 `json:"request"`
		Reveal  bool   `json:"reveal,omitempty"`
	}
	RequestResult struct {
		Request  RequestMessage  `json:"request"`
		Response ResponseMessage `json:"response"`
		Peer     string          `json:"peer"`
		Port     uint16          `json:"port"`
		Mirror   bool            `json:"mirror"`
		Started  string          `json:"started"` // RFC 3339, with fractions
		MS       float64         `json:"ms"`      // until it was answered, or until now
		Done     bool            `json:"done"`
		Error    string          `json:"error,omitempty"`
	}
	RequestMessage struct {
		Method   string      `json:"method"`
		Path     string      `json:"path"`
		Host     string      `json:"host"`
		Proto    string      `json:"proto"`
		Headers  [][2]string `json:"headers"` // as they came, in their order
		Trailers [][2]string `json:"trailers,omitempty"`
		Body     []byte      `json:"body"` // its first 64 KiB, without the framing, encoded as it came
		// Truncated: there is more of the body, or of the headers, than is here.
		Truncated bool `json:"truncated"`
	}
	ResponseMessage struct {
		Status    int         `json:"status"` // 0: there was none yet
		Headers   [][2]string `json:"headers"`
		Trailers  [][2]string `json:"trailers,omitempty"`
		Body      []byte      `json:"body"`
		Truncated bool        `json:"truncated"`
	}
)
