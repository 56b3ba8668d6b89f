// What the extension says to the daemon, and hears: protocol/ide/IDE.md.

export const version = 1;

/** Error codes that the extension tells apart. */
export const code = { cancelled: -32800, config: 1, session: 7, build: 8, file: 10 } as const;

export interface Client {
	dir: string;
	env: string[]; // NAME=value
	local: string[]; // directories that are this machine's for the debuggee, too
}

export interface Overrides {
	target?: string;
	namespace?: string;
	context?: string;
	kubeconfig?: string;
	steal?: boolean;
}

/** What chooses cluster, namespace and target: of most requests. */
export interface Choice {
	client: Client;
	configFile?: string;
	overrides: Overrides;
}

export interface Initialized {
	version: number;
	build: string;
	pid: number;
	busy: number;
}

export interface Target {
	path: string;
	containers?: string[]; // the default one first
	available: boolean;
	reason?: string;
}

export interface TargetList {
	namespace: string;
	targets: Target[];
	hidden?: string[]; // kinds that the user may not list
}

export interface Contexts {
	current?: string;
	contexts: string[];
}

export interface Namespaces {
	current: string;
	namespaces: string[];
}

export interface Problem {
	file: string;
	line: number; // from 1; 0: about no line
	column: number;
	key: string;
	message: string;
	warning?: boolean;
}

export interface Verified {
	problems: Problem[];
	configFile?: string; // that is used
	target?: string; // that is chosen
	namespace?: string;
	context?: string;
	incoming: string; // steal, mirror, off; '': nothing says
}

export interface Session {
	id: string;
	target: string;
	pod?: string;
	namespace?: string;
	context?: string;
	started: string;
	launchers: number;
	ports?: number[];
	mirrors?: boolean;
	warnings?: string[];
}

export type SessionStart = Choice & {
	id?: string;
	started?: string; // when the session with this id began
	pod?: string; // of a workload: the one to be preferred
	tied?: boolean; // it ends with the connection
};

/** A request on a stolen or mirrored connection: first its head, then how it was answered. */
export interface RequestSeen {
	id: number;
	port?: number;
	mirror?: boolean;
	peer?: string;
	method?: string;
	path?: string;
	host?: string;
	proto?: string;
	grpc?: boolean;
	status?: number; // 0: there was no answer, as error says
	ms?: number;
	requestBytes?: number;
	responseBytes?: number;
	grpcStatus?: number;
	error?: string;
}

/** A stolen or mirrored connection that is not HTTP. */
export interface ConnectionSeen {
	id: number;
	port: number;
	mirror: boolean;
	peer: string;
	bytesIn: number; // to the debuggee
	bytesOut: number;
	ms: number;
	open: boolean;
}

export interface OutgoingSeen {
	id: number;
	proto: string;
	address: string;
	name: string; // that was looked up for the address, or ''
	pid: number;
	ms: number; // until the answer; ended: of the whole
	error?: string;
	ended: boolean;
	bytesIn: number;
	bytesOut: number;
}

export interface FileSeen {
	path: string;
	op: string; // open, list
	write: boolean;
	bytes?: number; // its size
	pid: number;
	count?: number; // since the event before; 1 is left out
	error?: string;
}

export interface ServingSeen {
	thread: number;
	id: number; // of the request
	method: string;
	path: string;
	peer: string;
	pod?: string; // NAMESPACE/NAME
}

export interface SessionEvent {
	session: string;
	time: string;
	kind: string;
	pid?: number;
	port?: number;
	mirror?: boolean;
	message?: string;
	lost?: boolean; // of a message: what it tells of is gone for good
	request?: RequestSeen;
	connection?: ConnectionSeen;
	outgoing?: OutgoingSeen;
	file?: FileSeen;
	serving?: ServingSeen;
}

export interface Half {
	headers: [string, string][] | null;
	trailers?: [string, string][];
	body: string; // base64, encoded as it came
	truncated: boolean;
}

export interface Exchange {
	request: Half & { method: string; path: string; host: string; proto: string };
	response: Half & { status: number };
	peer: string;
	port: number;
	started: string;
	ms: number;
	done: boolean;
	error?: string;
}

export type FileKind = 'file' | 'directory' | 'symlink' | 'other';

export interface FileEntry {
	name: string;
	kind: FileKind;
	size: number;
	modified: number; // ms since the epoch
	mode: number;
	target: string; // of a symlink
	leads: FileKind | ''; // of a symlink: to what
	symlink?: boolean;
}

export interface FileData {
	data: string; // base64
	eof: boolean;
}

/** The most that file/read answers at once, in bytes. */
export const maxRead = 4 << 20;

export interface Debug {
	endpoint: string; // unix:PATH or HOST:PORT
	pid: number;
}

export interface Progress {
	token: string;
	value: { kind: string; message?: string; targets?: Target[] };
}
