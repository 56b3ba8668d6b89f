import * as vscode from 'vscode';
import { DaemonError, type Daemon } from './daemon';
import { maxRead, type FileEntry, type FileKind } from './protocol';
import type { Sessions } from './sessions';

export const fileScheme = 'mirrord';

/** The files of a session's target, for reading: mirrord://SESSION/PATH. */
export class TargetFiles implements vscode.FileSystemProvider {
	private readonly changed = new vscode.EventEmitter<vscode.FileChangeEvent[]>();
	readonly onDidChangeFile = this.changed.event;

	constructor(private readonly daemon: Daemon) {}

	watch(): vscode.Disposable { return new vscode.Disposable(() => {}); } // nobody tells of changes

	async stat(uri: vscode.Uri): Promise<vscode.FileStat> {
		const e = await this.ask(uri, () => this.daemon.file(uri.authority, uri.path || '/'));
		const type = fileType(e.kind) | (e.symlink ? vscode.FileType.SymbolicLink : 0);
		return { type, ctime: e.modified, mtime: e.modified, size: e.size, permissions: vscode.FilePermission.Readonly };
	}

	async readDirectory(uri: vscode.Uri): Promise<[string, vscode.FileType][]> {
		const entries = await this.ask(uri, () => this.daemon.files(uri.authority, uri.path || '/'));
		return entries.map((e) => [e.name, typeOf(e)]);
	}

	async readFile(uri: vscode.Uri): Promise<Uint8Array> {
		const parts: Buffer[] = [];
		for (let offset = 0; ;) {
			const r = await this.ask(uri, () => this.daemon.read(uri.authority, uri.path, offset, maxRead));
			const part = Buffer.from(r.data, 'base64');
			parts.push(part);
			offset += part.length;
			if (r.eof || part.length === 0) return Buffer.concat(parts);
		}
	}

	createDirectory(uri: vscode.Uri): never { throw vscode.FileSystemError.NoPermissions(uri); }
	writeFile(uri: vscode.Uri): never { throw vscode.FileSystemError.NoPermissions(uri); }
	delete(uri: vscode.Uri): never { throw vscode.FileSystemError.NoPermissions(uri); }
	rename(uri: vscode.Uri): never { throw vscode.FileSystemError.NoPermissions(uri); }

	private async ask<T>(uri: vscode.Uri, f: () => Promise<T>): Promise<T> {
		try {
			return await f();
		} catch (e) {
			const errno = e instanceof DaemonError ? e.errno : '';
			if (errno === 'ENOENT') throw vscode.FileSystemError.FileNotFound(uri);
			if (errno === 'ENOTDIR') throw vscode.FileSystemError.FileNotADirectory(uri);
			if (errno === 'EISDIR') throw vscode.FileSystemError.FileIsADirectory(uri);
			if (errno === 'EACCES' || errno === 'EPERM') throw vscode.FileSystemError.NoPermissions(uri);
			throw vscode.FileSystemError.Unavailable(e instanceof Error ? e.message : String(e));
		}
	}
}

function fileType(kind: FileKind | ''): vscode.FileType {
	return kind === 'directory' ? vscode.FileType.Directory : kind === 'file' ? vscode.FileType.File : vscode.FileType.Unknown;
}

function typeOf(e: FileEntry): vscode.FileType {
	return e.kind === 'symlink' ? vscode.FileType.SymbolicLink | fileType(e.leads) : fileType(e.kind);
}

interface Place { uri: vscode.Uri; name: string; type: vscode.FileType }

/** The sidebar's view of a target's files. */
export class FileTree implements vscode.TreeDataProvider<Place> {
	private readonly changed = new vscode.EventEmitter<undefined>();
	readonly onDidChangeTreeData = this.changed.event;
	private session?: string; // chosen; else the first one

	constructor(private readonly files: TargetFiles, private readonly sessions: Sessions) {
		let before = this.current;
		sessions.onChange(() => {
			if (before === this.current) return;
			before = this.current;
			this.refresh();
		});
	}

	get current(): string | undefined {
		if (this.session && this.sessions.get(this.session)) return this.session;
		return this.sessions.list[0]?.info.id;
	}

	choose(session: string): void {
		this.session = session;
		this.refresh();
	}

	refresh(): void { this.changed.fire(undefined); }

	async getChildren(place?: Place): Promise<Place[]> {
		const uri = place?.uri ?? (this.current ? vscode.Uri.from({ scheme: fileScheme, authority: this.current, path: '/' }) : undefined);
		if (!uri) return [];
		const list = (await this.files.readDirectory(uri)).map(([name, type]) => ({ uri: vscode.Uri.joinPath(uri, name), name, type }));
		return list.sort((a, b) => Number(isDir(b)) - Number(isDir(a)) || a.name.localeCompare(b.name));
	}

	getTreeItem(p: Place): vscode.TreeItem {
		const item = new vscode.TreeItem(p.uri, isDir(p) ? vscode.TreeItemCollapsibleState.Collapsed : vscode.TreeItemCollapsibleState.None);
		item.label = shown(p.name);
		item.tooltip = shown(p.uri.path);
		item.accessibilityInformation = { label: `${isDir(p) ? 'directory' : 'file'} ${shown(p.name)}` };
		if (!isDir(p)) item.command = { command: 'vscode.open', title: 'Open', arguments: [p.uri] };
		return item;
	}
}

/** A byte of a name that is not UTF-8 comes as NUL and two digits. */
function shown(name: string): string { return name.replaceAll('\0', '\\x'); }

function isDir(p: Place): boolean { return (p.type & vscode.FileType.Directory) !== 0; }
