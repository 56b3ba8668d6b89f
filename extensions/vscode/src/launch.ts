// How a launch configuration becomes one whose debuggee runs in a session.
// Nothing of vscode is in here, and nothing of the target gets into a
// configuration but the session's id.

/** A vscode.DebugConfiguration, of whose keys each debug type has its own. */
export interface Launch {
	type: string;
	request: string;
	name: string;
	[key: string]: unknown;
}

export interface Tools {
	mirrord: string; // path of the binary
	dlv: string; // of a link to it by this name
	lldb: string; // of the script that LLDB imports
	/** Makes an executable file that runs program in the session, and returns its path. */
	wrapper(program: string, nativeDebugger: boolean): Promise<string>;
}

/** The variable that names the session to our dlv. */
export const sessionVar = 'MIRRORD_SESSION';
const activeVar = 'MIRRORD_ACTIVE';
const configVar = 'MIRRORD_CONFIG_FILE';

export const ownType = 'mirrord-go';

const node = ['node', 'pwa-node', 'node-terminal'];
const python = ['python', 'debugpy'];

/** Debug types that control their program by ptrace: it cannot be another's child. */
const native = ['cppdbg', 'cppvsdbg', 'gdb', 'coreclr', 'rr'];
const lldb = ['lldb', 'lldb-dap', 'lldb-vscode'];

/** Debug types whose debuggee is a browser or an editor. */
const elsewhere = ['chrome', 'pwa-chrome', 'msedge', 'pwa-msedge', 'editor-browser', 'firefox', 'extensionHost', 'pwa-extensionHost'];

/** Whether a launch is to be in a session, where mirrord is on or off. */
export function wanted(c: Launch, on: boolean): boolean {
	if (c.type === ownType) return true;
	if (c.request !== 'launch' || c['__parentId'] || elsewhere.includes(c.type)) return false;
	if (environment(c)[sessionVar]) return false; // it has one
	const own = environment(c)[activeVar];
	return own === undefined || own === null ? on : !['', '0', 'false', 'no', 'off'].includes(own.toLowerCase());
}

/** The launch's own variables, which the debuggee gets over the target's; null removes one. */
export function environment(c: Launch): Record<string, string | null> {
	const list: unknown = c['environment']; // cppdbg's
	if (c['env'] === undefined && Array.isArray(list)) {
		return Object.fromEntries(list.filter((e) => typeof e?.name === 'string').map((e) => [e.name, String(e.value)]));
	}
	const env: unknown = c['env'];
	if (typeof env !== 'object' || env === null) return {};
	return Object.fromEntries(Object.entries(env).map(([k, v]) => [k, v === null ? null : String(v)]));
}

/** The configuration file that a launch names for itself. */
export function configFile(c: Launch): string | undefined { return environment(c)[configVar] ?? undefined; }

/** A process's environment with a launch's own variables over it, as NAME=value. */
export function merge(base: NodeJS.ProcessEnv, own: Record<string, string | null>): string[] {
	const all: Record<string, string | null | undefined> = { ...base, ...own };
	return Object.entries(all).flatMap(([k, v]) => (v === undefined || v === null ? [] : [`${k}=${v}`]));
}

/**
 * Why a launch cannot be put into a session, "" if it can: where its program is
 * started by something that we do not start, it would run outside.
 */
export async function unsupported(c: Launch, executable: (file: string) => Promise<boolean>): Promise<string> {
	if (c.type === ownType) return c.request === 'launch' ? '' : 'a running process cannot be put into the context of a target';
	if (c['debugServer'] || c['attachSimplePort']) return 'it connects to a debugger that runs already';
	if (c.type === 'go') return c['mode'] === 'remote' || c['port'] || c['host'] ? 'it connects to a Delve that runs already' : '';
	if (node.includes(c.type) || python.includes(c.type) || c.type === 'java' || typeof c['runtimeExecutable'] === 'string') return '';
	if (lldb.includes(c.type)) return c['targetCreateCommands'] || c['processCreateCommands'] || c['launchCommands'] ? 'its own commands start the program' : '';
	if (isGDB(c)) return c['miDebuggerServerAddress'] || c['pipeTransport'] ? 'its gdb debugs a program of another machine' : '';
	const program: unknown = c['program'];
	if (typeof program === 'string' && !native.includes(c.type) && await executable(program)) return '';
	return `it is not known how launches of type "${c.type}" start their program`;
}

/** Changes a launch, which is supported, so that its debuggee runs in session id. */
export async function apply(c: Launch, id: string, tools: Tools): Promise<Launch> {
	const exec = ['exec', '--session', id, '--'];
	if (c.type === ownType) return c; // its adapter is asked for by the session
	if (c.type === 'go') {
		return { ...c, dlvToolPath: tools.dlv, env: { ...object(c['env']), [sessionVar]: id } };
	}
	if (c.type === 'node-terminal') {
		return { ...c, command: [quote(tools.mirrord), ...exec, 'sh', '-c', quote(String(c['command'] ?? ''))].join(' ') };
	}
	if (node.includes(c.type) || typeof c['runtimeExecutable'] === 'string') {
		const runtime = c['runtimeExecutable'] ?? 'node';
		return { ...c, runtimeExecutable: tools.mirrord, runtimeArgs: [...exec, runtime, ...list(c['runtimeArgs'])] };
	}
	if (python.includes(c.type)) {
		return { ...c, python: [tools.mirrord, ...exec, ...list(c['python'] ?? 'python3')] };
	}
	if (c.type === 'java') {
		return { ...c, javaExec: await tools.wrapper(String(c['javaExec'] ?? 'java'), false) };
	}
	if (isGDB(c)) {
		return { ...c, miDebuggerPath: await tools.wrapper(String(c['miDebuggerPath'] ?? 'gdb'), true) };
	}
	if (lldb.includes(c.type)) {
		const [script, mirrord] = [tools.lldb, tools.mirrord].map((file) => JSON.stringify(file));
		const begin = [`command script import ${script}`, `script mirrord_lldb.begin(${mirrord}, "${id}")`];
		return { ...c, initCommands: [...begin, ...list(c['initCommands'])] };
	}
	return { ...c, program: await tools.wrapper(String(c['program']), false) };
}

function isGDB(c: Launch): boolean { return c.type === 'cppdbg' && (c['MIMode'] ?? 'gdb') === 'gdb'; }

function object(v: unknown): object { return typeof v === 'object' && v !== null ? v : {}; }

function list(v: unknown): string[] {
	return v === undefined || v === null ? [] : Array.isArray(v) ? v.map(String) : [String(v)];
}

/** Quotes a word for sh. */
export function quote(word: string): string {
	return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
