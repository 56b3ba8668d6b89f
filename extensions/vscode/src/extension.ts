import * as fs from 'node:fs';
import * as path from 'node:path';
import * as vscode from 'vscode';
import { Configs } from './configs';
import { Daemon } from './daemon';
import { Debugging } from './debug';
import { EventLog } from './eventlog';
import { fileScheme, FileTree, TargetFiles } from './files';
import { showMenu } from './menu';
import { Notifier } from './notify';
import { RequestDocuments, requestScheme } from './requests';
import { Sessions, type Running } from './sessions';
import { packed, Settings } from './settings';
import { Starter } from './starter';
import { short, StatusItem } from './status';
import { Terminals } from './terminals';
import { SessionTools } from './tools';
import { SessionTree, type Node } from './tree';

const redraw = 50; // ms between two changes of what a launch shows, which has better things to do

/** Wires the parts. Nothing runs, and no daemon starts, before it is used. */
export function activate(ctx: vscode.ExtensionContext): void {
	const log = vscode.window.createOutputChannel('mirrord', { log: true });
	const settings = new Settings(ctx);
	const notify = new Notifier(ctx.globalState, log);
	const { version } = ctx.extension.packageJSON as { version: string };
	const daemon = new Daemon({
		binary: () => settings.binary,
		build: () => (settings.binary === packed(ctx.extensionPath, 'mirrord') ? packedBuild(ctx.extensionPath) : ''),
		name: `vscode ${version}`,
		log: (line) => log.info(line),
	});
	const events = new EventLog();
	const sessions = new Sessions(daemon, notify, events, log);
	const starter = new Starter(daemon, settings, sessions, notify, [vscode.env.appRoot, path.dirname(ctx.extensionPath)]);
	const tools = new SessionTools(() => settings.binary, ctx.extensionPath, ctx.globalStorageUri.fsPath, async () => (await daemon.sessions()).map((s) => s.id));
	const configs = new Configs(daemon, settings, starter, log);
	const terminals = new Terminals(settings, sessions, starter);
	const targetFiles = new TargetFiles(daemon);
	const requests = new RequestDocuments(daemon);
	const status = new StatusItem(settings, sessions);
	const tree = new SessionTree(sessions);
	const fileTree = new FileTree(targetFiles, sessions);
	const sessionView = vscode.window.createTreeView('mirrord.sessions', { treeDataProvider: tree });
	const fileView = vscode.window.createTreeView('mirrord.files', { treeDataProvider: fileTree });

	new Debugging(daemon, settings, sessions, starter, tools, log).register(ctx);
	terminals.register(ctx);
	configs.register(ctx);

	const told = new Map<string, unknown>();
	const context = (key: string, value: unknown) => {
		if (told.get(key) === value) return;
		told.set(key, value);
		void vscode.commands.executeCommand('setContext', `mirrord.${key}`, value);
	};
	const draw = () => {
		status.draw();
		context('enabled', settings.on);
		context('hasSession', sessions.list.length > 0);
		context('caught', sessions.caught.length > 0);
		const shown = sessions.get(fileTree.current ?? '');
		const description = shown ? short(shown.info.target) : '';
		if (fileView.description !== description) fileView.description = description;
	};
	let timer: NodeJS.Timeout | undefined;
	const soon = () => { timer ??= setTimeout(() => { timer = undefined; draw(); }, redraw); };
	// Not before it is used: where mirrord is off, a view that is there from the last time asks nobody.
	const listen = () => { if ((settings.on && sessionView.visible) || sessions.own.length > 0) void sessions.listen(settings.showTraffic); };

	const commands: Record<string, (...args: never[]) => unknown> = {
		toggle: () => {
			sessions.settle();
			return settings.setOn(!settings.on);
		},
		menu: () => showMenu(settings, sessions),
		unmute: () => notify.unmute(),
		chooseTarget: () => starter.chooseForLater(),
		runInTerminal: (command?: string) => terminals.runInTerminal(typeof command === 'string' ? command : undefined),
		selectConfig: () => configs.select(),
		createConfig: () => configs.create(),
		openConfig: () => configs.open(),
		openSettings: () => vscode.commands.executeCommand('workbench.action.openSettings', '@ext:mirrord.mirrord'),
		showLog: () => log.show(),
		openWalkthrough: () => vscode.commands.executeCommand('workbench.action.openWalkthrough', `${ctx.extension.id}#start`, false),
		stopSession: async (which?: string | Node) => {
			const id = await session(sessions.list, which);
			if (id) await sessions.stop(id);
		},
		arm: async (which?: string | Node) => {
			const id = await session(sessions.caught, which, 'no session has had its only request');
			if (id) await sessions.arm(id);
		},
		openFiles: async (which?: string | Node) => {
			const id = await session(sessions.list, which);
			if (!id) return;
			fileTree.choose(id);
			await vscode.commands.executeCommand('mirrord.files.focus');
		},
		showEvents: async (which?: string | Node) => {
			const id = await session(sessions.list, which);
			if (id) events.show(id, sessions.get(id)?.info.target ?? id);
		},
		showRequest: (node: Node) => show(node, false),
		revealRequest: (node: Node) => show(node, true),
		clearTraffic: () => sessions.clearTraffic(),
		refreshFiles: () => fileTree.refresh(),
	};
	const show = (node: Node, reveal: boolean) =>
		node.kind === 'leaf' && node.request ? requests.show(node.request.session, node.request.id, node.label, reveal) : undefined;
	for (const [name, f] of Object.entries(commands)) {
		ctx.subscriptions.push(vscode.commands.registerCommand(`mirrord.${name}`, async (...args: never[]) => {
			try {
				await f(...args);
			} catch (e) {
				starter.fail(e);
			}
		}));
	}

	ctx.subscriptions.push(
		log, events, status, tree, sessionView, fileView, sessions, daemon,
		vscode.workspace.registerFileSystemProvider(fileScheme, targetFiles, { isReadonly: true, isCaseSensitive: true }),
		vscode.workspace.registerTextDocumentContentProvider(requestScheme, requests),
		settings.onChange(() => { draw(); listen(); }),
		sessions.onChange(() => { soon(); listen(); }),
		{ dispose: () => clearTimeout(timer) },
		sessions.onEnd((id) => void tools.forget(id)),
		sessionView.onDidChangeVisibility(({ visible }) => { if (visible) void sessions.listen(settings.showTraffic); }),
	);
	draw();
	listen();
}

/** The build of the mirrord in this extension, which its packaging has noted. */
function packedBuild(dir: string): string {
	try { return fs.readFileSync(packed(dir, 'build'), 'utf8').trim(); } catch { return ''; }
}

/** The session that a command is about; the user chooses where several run. */
async function session(list: Running[], which?: string | Node, none = 'no session runs'): Promise<string | undefined> {
	if (typeof which === 'string') return which;
	if (which && which.kind !== 'leaf') return which.id;
	if (list.length === 0) throw new Error(none);
	if (list.length === 1) return list[0]!.info.id;
	const chosen = await vscode.window.showQuickPick(list.map((r) => ({ label: r.info.target, description: r.info.id })), { title: 'mirrord: session' });
	return chosen?.description;
}
